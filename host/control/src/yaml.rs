//! Bytes to tree: one YAML document, with the traps of the language turned into clear errors.
//!
//! Laws: never panics; memory and time are bounded by the limits below; keys are unique.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, StrInput, Tag};

use crate::diagnostic::{Report, Span};
use crate::names::shown;
use crate::tree::{Entry, Node, Scalar, Tree};

/// A pipeline file is written by hand: a larger one is some other file.
pub(crate) const FILE_BYTES_MAX: usize = 1 << 20;
/// Maps in lists in maps; settings of connectors need fewer than ten.
pub(crate) const DEPTH_MAX: usize = 32;
/// Nodes of the tree with aliases expanded: stops the "billion laughs".
const NODES_MAX: usize = 100_000;

/// Shown where there is nothing to point at.
pub(crate) const EXAMPLE: &str = "a pipeline has at least a source and a sink:\n\
    \x20 sources:\n\
    \x20   numbers: { datagen: { rows: 10, columns: { n: { sequence: { start: 1 } } } } }\n\
    \x20 sinks:\n\
    \x20   screen: { input: numbers, stdout: { format: ndjson } }";

/// The file's only document. `None`: an error has been reported.
pub(crate) fn parse(report: &mut Report) -> Option<Node> {
    let text = report.text().to_owned();
    let options = granit_parser::options! {
        disallow_directives: true,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
        emit_comments: false,
    };
    let parser = Parser::new_from_str_with_options(&text, options);
    let mut loader = Loader { parser, report, text: &text, anchors: HashMap::new(), nodes: 0 };
    loader.document()
}

struct Loader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    report: &'a mut Report,
    text: &'a str,
    /// By anchor: the node, how many nodes it has, and how deep it is.
    anchors: HashMap<usize, (Node, usize, usize)>,
    nodes: usize,
}

/// An error has been reported.
struct Stop;

impl Loader<'_> {
    fn document(&mut self) -> Option<Node> {
        let mut root = None;
        loop {
            let (event, span) = self.next().ok()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(..) if root.is_some() => {
                    self.report
                        .error(&span, "a second document begins here")
                        .help("a file holds one pipeline: remove `---`");
                    return None;
                }
                event if event.is_node() => root = Some(self.node(event, span, 0).ok()?.0),
                _ => {}
            }
        }
        root.filter(|node| !node.is_null()).or_else(|| {
            self.report.error_of_file("the file is empty").help(EXAMPLE);
            None
        })
    }

    fn next(&mut self) -> Result<(Event<'static>, Span), Stop> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((owned(event), span.byte_range().unwrap_or_default())),
            Some(Err(error)) => {
                syntax_error(self.report, self.text, &error);
                Err(Stop)
            }
            None => Ok((Event::StreamEnd, 0..0)),
        }
    }

    /// The node that begins with `event`, and how many levels are below it.
    fn node(&mut self, event: Event<'static>, span: Span, depth: usize) -> Result<(Node, usize), Stop> {
        self.grow(&span, depth, 1)?;
        let before = self.nodes;
        let (anchor, tag) = (event.anchor_id(), event.tag().map(Tag::original));
        if let Some(tag) = tag {
            return self.refuse_tag(&span, &tag);
        }
        let (node, height) = match event {
            Event::Alias(id) => return self.alias(id, &span, depth),
            Event::Scalar(text, style, ..) => {
                let scalar = Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                (Node { span, value: Tree::Scalar(scalar) }, 0)
            }
            Event::SequenceStart(..) => self.list(span, depth)?,
            _ => self.map(span, depth)?,
        };
        if let Some(id) = anchor {
            self.anchors.insert(id, (node.clone(), self.nodes - before + 1, height));
        }
        Ok((node, height))
    }

    fn list(&mut self, span: Span, depth: usize) -> Result<(Node, usize), Stop> {
        let (mut items, mut height) = (Vec::new(), 0);
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::SequenceEnd | Event::StreamEnd) {
                return Ok((Node { span: span.start..at.end.max(span.end), value: Tree::List(items) }, height));
            }
            let (item, below) = self.node(event, at, depth + 1)?;
            height = height.max(below + 1);
            items.push(item);
        }
    }

    fn map(&mut self, span: Span, depth: usize) -> Result<(Node, usize), Stop> {
        let (mut entries, mut height) = (Vec::<Entry>::new(), 0);
        let mut places = HashMap::<String, Span>::new();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::MappingEnd | Event::StreamEnd) {
                return Ok((Node { span: span.start..at.end.max(span.end), value: Tree::Map(entries) }, height));
            }
            let (key, _) = self.node(event, at, depth + 1)?;
            let (key, key_span) = self.key(key)?;
            let (event, at) = self.next()?;
            let (value, below) = self.node(event, at, depth + 1)?;
            height = height.max(below + 1);
            match places.get(&key) {
                Some(first) => {
                    let error = self.report.error(&key_span, format!("`{}` is given twice", shown(&key)));
                    error.label("again here").also(first, "first here").help("remove one of the two, or rename it");
                }
                None => {
                    places.insert(key.clone(), key_span.clone());
                    entries.push(Entry { key, key_span, value });
                }
            }
        }
    }

    fn key(&mut self, key: Node) -> Result<(String, Span), Stop> {
        match key.value {
            Tree::Scalar(scalar) if scalar.plain && scalar.text == "<<" => {
                let error = self.report.error(&key.span, "merge keys are not part of YAML 1.2");
                error
                    .label("`<<` has no meaning here")
                    .help("write the settings out, or use an alias for the whole map");
                Err(Stop)
            }
            Tree::Scalar(scalar) => Ok((scalar.text, key.span)),
            _ => {
                let error = self.report.error(&key.span, format!("a key must be text, not {}", key.kind()));
                error.help("text that begins with `{`, `[` or `?` needs quotes");
                Err(Stop)
            }
        }
    }

    fn alias(&mut self, id: usize, span: &Span, depth: usize) -> Result<(Node, usize), Stop> {
        let Some((_, size, height)) = self.anchors.get(&id) else {
            self.report
                .error(span, "this alias refers to the node that it is a part of")
                .label("inside its own anchor");
            return Err(Stop);
        };
        let (size, height) = (*size, *height);
        self.grow(span, depth + height, size)?;
        Ok((self.anchors[&id].0.clone(), height))
    }

    /// Counts nodes against the limits.
    fn grow(&mut self, span: &Span, depth: usize, count: usize) -> Result<(), Stop> {
        self.nodes += count;
        if depth > DEPTH_MAX {
            self.report.error(span, format!("nested more than {DEPTH_MAX} levels deep")).label("too deep");
            return Err(Stop);
        }
        if self.nodes > NODES_MAX {
            let message = format!("more than {NODES_MAX} values, aliases expanded");
            self.report.error(span, message).label("too many").help("repeat less through aliases (`*name`)");
            return Err(Stop);
        }
        Ok(())
    }

    fn refuse_tag<T>(&mut self, span: &Span, tag: &str) -> Result<T, Stop> {
        let line = self.text[..span.start].rfind('\n').map_or(0, |i| i + 1);
        let place = self.text[line..span.start].rfind('!').map_or(span.clone(), |i| {
            let bang = self.text[line..line + i].rfind([' ', ',', '[', '{']).map_or(line, |b| line + b + 1);
            bang..span.start
        });
        let error = self.report.error(&place, format!("YAML tags are not used here: `{}`", shown(tag)));
        error.help("text that begins with `!` needs quotes");
        Err(Stop)
    }
}

/// An event without the borrow of the parser's input. Events that are not used are dropped.
fn owned(event: Event<'_>) -> Event<'static> {
    use std::borrow::Cow;
    let tag = |tag: Option<Cow<'_, Tag>>| tag.map(|tag| Cow::Owned(tag.into_owned()));
    match event {
        Event::Scalar(text, style, anchor, t) => Event::Scalar(Cow::Owned(text.into_owned()), style, anchor, tag(t)),
        Event::SequenceStart(style, anchor, t) => Event::SequenceStart(style, anchor, tag(t)),
        Event::MappingStart(style, anchor, t) => Event::MappingStart(style, anchor, tag(t)),
        Event::SequenceEnd => Event::SequenceEnd,
        Event::MappingEnd => Event::MappingEnd,
        Event::Alias(id) => Event::Alias(id),
        Event::DocumentStart(explicit, version) => Event::DocumentStart(explicit, version),
        Event::StreamEnd => Event::StreamEnd,
        _ => Event::StreamStart,
    }
}

/// The parser's error in words that say what to do.
fn syntax_error(report: &mut Report, text: &str, error: &ScanError) {
    let at = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
    let place = visible(text, at);
    let line_start = text[..place.start].rfind('\n').map_or(0, |i| i + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let tab = line.find('\t').filter(|&tab| line[..tab].chars().all(char::is_whitespace));
    if let Some(tab) = tab {
        let tab = line_start + tab..line_start + tab + 1;
        let error = report.error(&tab, "a tab cannot indent in YAML");
        error.help("use spaces");
        return;
    }
    let (message, help) = explain(error.kind(), line);
    let diagnostic = report.error(&place, message);
    if let Some(help) = help {
        diagnostic.help(help);
    }
}

/// One character at `at`, or the last visible one before it: errors at a line's end need a place too.
fn visible(text: &str, at: usize) -> Span {
    let at = text.floor_char_boundary(at);
    match text[at..].chars().next() {
        Some(c) if !c.is_whitespace() => at..at + c.len_utf8(),
        _ => {
            let end = text[..at].trim_end().len();
            let start = text[..end].char_indices().next_back().map_or(0, |(i, _)| i);
            start..end
        }
    }
}

/// What is wrong, and what to do about it if that can be told.
fn explain(kind: &ErrorKind, line: &str) -> (String, Option<&'static str>) {
    use ErrorKind as K;
    if line.contains("${") && !matches!(kind, K::UnclosedQuotedScalar | K::RecursionLimitExceeded) {
        let help = "inside of `{ }` and `[ ]`, text with `${...}` needs quotes: \"${NAME}\"";
        return (format!("not YAML: {kind}"), Some(help));
    }
    let (message, help) = match kind {
        K::UnknownAnchor => ("there is no anchor of this name", "text that begins with `*` needs quotes: \"*\""),
        K::MissingAnchorOrAliasName => {
            ("`*` and `&` begin an alias or anchor", "text that begins with `*` or `&` needs quotes: \"*\"")
        }
        K::MappingValueNotAllowed | K::SimpleKeyExpected | K::InvalidSimpleKey | K::InvalidColonPlacement => (
            "not YAML: a key and its `:` do not belong here",
            "text with `: ` inside needs quotes; otherwise look at the indentation and at the line above",
        ),
        K::ExpectedBlockMappingKey | K::InvalidIndentation => {
            ("not YAML: this line does not fit to the ones above", "keys of one map begin in the same column")
        }
        K::UnclosedQuotedScalar => ("a quoted text is not closed", "the closing quote is missing"),
        K::UnclosedFlowCollection { open: '{' } | K::UnexpectedEofFlowMapping => {
            ("`{` is not closed", "the closing `}` is missing")
        }
        K::UnclosedFlowCollection { .. } | K::UnexpectedEofFlowSequence => {
            ("`[` is not closed", "the closing `]` is missing")
        }
        K::ExpectedFlowMappingSeparator => {
            ("not YAML: `,` or `}` should stand here", "close the map with `}`; text with `,`, `{` or `}` needs quotes")
        }
        K::ExpectedFlowSequenceSeparator => (
            "not YAML: `,` or `]` should stand here",
            "close the list with `]`; text with `,`, `[` or `]` needs quotes",
        ),
        K::UnexpectedCharacter { character } => {
            let message = format!("not YAML: text cannot begin with `{}`", character.escape_debug());
            return (message, Some("put the text in quotes"));
        }
        K::UnknownQuotedScalarEscape => {
            ("not YAML: no such escape in double quotes", "use single quotes, or write `\\\\` for a backslash")
        }
        K::DirectiveDisallowed => ("YAML directives are not used here", "remove the line that begins with `%`"),
        K::RecursionLimitExceeded => ("nested too deep", "the settings of a node need fewer than ten levels"),
        other => return (format!("not YAML: {other}"), None),
    };
    (message.to_owned(), Some(help))
}
