//! Errors and warnings about a pipeline file, each with its place in the text.
//!
//! Laws: spans are byte ranges of the file's text; no text that a user wrote reaches the terminal
//! with its control characters; a report is finite however broken the file is.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

/// Byte range in the text of the file.
pub type Span = Range<usize>;

/// Errors and warnings kept: nobody reads more, and a broken file could make one per byte.
const KEPT_MAX: usize = 50;
/// Lines longer than this many bytes are not shown: they would fill the screen.
const SHOWN_LINE_BYTES_MAX: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// The text that diagnostics speak of.
#[derive(Debug)]
pub struct SourceFile {
    name: String,
    text: String,
    /// The text with control characters masked, byte for byte as long; none if its lines are too long to show.
    shown: Option<NamedSource<String>>,
}

impl SourceFile {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let fits = text.split('\n').all(|line| line.len() <= SHOWN_LINE_BYTES_MAX);
        let name = mask_controls(name);
        let shown = fits.then(|| NamedSource::new(&name, mask_controls(text)));
        Self { name, text: text.to_owned(), shown }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// 1-based line and column (in characters) of a byte offset.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
        let start = before.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        (line, String::from_utf8_lossy(&before[start..]).chars().count() + 1)
    }

    /// The part of `span` on its first line, without trailing space, on character boundaries.
    fn first_line(&self, span: &Span) -> Span {
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let end = self.text.ceil_char_boundary(span.end.clamp(start, self.text.len()));
        let line = self.text[start..end].split(['\n', '\r']).next().unwrap_or_default().trim_end();
        start..start + line.len()
    }
}

/// A place and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    pub text: String,
}

/// One error or warning: what happened, where, and what to do.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    /// The first label is the place; none if the file as a whole is to blame.
    pub labels: Vec<Label>,
    pub help: Option<String>,
    /// All names that would be right, where a name is wrong. For programs: `help` lists the first ones only.
    pub candidates: Vec<String>,
    file: Arc<SourceFile>,
}

impl Diagnostic {
    fn new(severity: Severity, span: Option<&Span>, message: &str, file: &Arc<SourceFile>) -> Self {
        let labels = span.iter().map(|span| Label { span: file.first_line(span), text: String::new() }).collect();
        Self {
            severity,
            message: mask_controls(message),
            labels,
            help: None,
            candidates: Vec::new(),
            file: file.clone(),
        }
    }

    /// What is said at the place itself.
    pub(crate) fn label(&mut self, text: impl AsRef<str>) -> &mut Self {
        if let Some(first) = self.labels.first_mut() {
            first.text = mask_controls(text.as_ref());
        }
        self
    }

    /// A further place that matters.
    pub(crate) fn also(&mut self, span: &Span, text: impl AsRef<str>) -> &mut Self {
        let span = self.file.first_line(span);
        self.labels.push(Label { span, text: mask_controls(text.as_ref()) });
        self
    }

    pub(crate) fn help(&mut self, text: impl AsRef<str>) -> &mut Self {
        self.help = Some(mask_controls(text.as_ref()));
        self
    }

    /// 1-based line and column of the place.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.labels.first().map(|label| self.file.position(label.span.start))
    }

    /// One line `file:line:col: severity: message (label)`, then `help:` on its own line. For logs and editors.
    pub fn plain(&self) -> String {
        let mut out = format!("{}:", self.file.name);
        if let Some((line, column)) = self.position() {
            let _ = write!(out, "{line}:{column}:");
        }
        let severity = if self.severity == Severity::Error { "error" } else { "warning" };
        let _ = write!(out, " {severity}: {}", self.message);
        if let Some(label) = self.labels.first().filter(|label| !label.text.is_empty()) {
            let _ = write!(out, " ({})", label.text);
        }
        if let Some(help) = &self.help {
            let _ = write!(out, "\n  help: {help}");
        }
        out
    }

    /// For people: with the lines of the file. Ends with a line break.
    pub fn render(&self, color: bool) -> String {
        if self.file.shown.is_none() || self.labels.is_empty() {
            return format!("{}\n", self.plain());
        }
        let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        // Not wrapped: the terminal does that, and what stands in a help can be copied whole.
        let handler = GraphicalReportHandler::new_themed(theme).with_wrap_lines(false).with_links(false);
        let mut out = String::new();
        match handler.render_report(&mut out, self) {
            Ok(()) => out,
            Err(_) => format!("{}\n", self.plain()),
        }
    }
}

/// The message alone; [`Diagnostic::plain`] says where, too.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.file.shown.as_ref().map(|shown| shown as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let shown = |(i, label): (usize, &Label)| {
            let text = (!label.text.is_empty()).then(|| label.text.clone());
            let (start, length) = (label.span.start, label.span.len());
            // The first one is the place that the header names.
            if i == 0 {
                LabeledSpan::new_primary_with_span(text, (start, length))
            } else {
                LabeledSpan::new(text, start, length)
            }
        };
        (!self.labels.is_empty())
            .then(|| Box::new(self.labels.iter().enumerate().map(shown)) as Box<dyn Iterator<Item = _>>)
    }
}

/// All errors of a file; at least one.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    /// In the order of their places.
    pub items: Vec<Diagnostic>,
    /// Errors beyond those kept.
    pub omitted: usize,
}

impl Diagnostics {
    /// For people: each with the lines of the file, then how many there are.
    pub fn render(&self, color: bool) -> String {
        let mut out = String::new();
        for item in &self.items {
            out.push_str(&item.render(color));
            out.push('\n');
        }
        let _ = writeln!(out, "{}", self.summary());
        out
    }

    fn summary(&self) -> String {
        let errors = self.items.len() + self.omitted;
        let more = if self.omitted > 0 { format!(", {} not shown", self.omitted) } else { String::new() };
        format!("{errors} error{}{more}", if errors == 1 { "" } else { "s" })
    }
}

/// Plain: one after the other, then how many there are.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.items.iter().try_for_each(|item| writeln!(f, "{}", item.plain()))?;
        f.write_str(&self.summary())
    }
}

impl std::error::Error for Diagnostics {}

/// Collects what is wrong while a file is read.
pub(crate) struct Report {
    file: Arc<SourceFile>,
    items: Vec<Diagnostic>,
    errors: usize,
    omitted: usize,
    /// Takes what is beyond the limit.
    overflow: Diagnostic,
}

impl Report {
    pub(crate) fn new(file: SourceFile) -> Self {
        let file = Arc::new(file);
        let overflow = Diagnostic::new(Severity::Error, None, "", &file);
        Self { file, items: Vec::new(), errors: 0, omitted: 0, overflow }
    }

    pub(crate) fn text(&self) -> &str {
        self.file.text()
    }

    pub(crate) fn error(&mut self, span: &Span, message: impl AsRef<str>) -> &mut Diagnostic {
        self.push(Severity::Error, Some(span), message.as_ref())
    }

    /// An error of the file as a whole.
    pub(crate) fn error_of_file(&mut self, message: impl AsRef<str>) -> &mut Diagnostic {
        self.push(Severity::Error, None, message.as_ref())
    }

    pub(crate) fn warning(&mut self, span: &Span, message: impl AsRef<str>) -> &mut Diagnostic {
        self.push(Severity::Warning, Some(span), message.as_ref())
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// The warnings; or the errors, without the warnings, which may be no more than their consequences.
    pub(crate) fn finish(mut self) -> Result<Vec<Diagnostic>, Diagnostics> {
        self.items.sort_by_key(|item| item.labels.first().map_or(0, |label| label.span.start));
        if self.errors == 0 {
            return Ok(self.items);
        }
        self.items.retain(|item| item.severity == Severity::Error);
        Err(Diagnostics { items: self.items, omitted: self.omitted })
    }

    fn push(&mut self, severity: Severity, span: Option<&Span>, message: &str) -> &mut Diagnostic {
        self.errors += usize::from(severity == Severity::Error);
        let diagnostic = Diagnostic::new(severity, span, message, &self.file);
        if self.items.iter().filter(|item| item.severity == severity).count() >= KEPT_MAX {
            self.omitted += usize::from(severity == Severity::Error);
            self.overflow = diagnostic;
            return &mut self.overflow;
        }
        self.items.push(diagnostic);
        self.items.last_mut().expect("pushed just now")
    }
}

/// Control characters but line breaks and tabs become `?`, as many as they have bytes.
fn mask_controls(text: &str) -> String {
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    if !text.contains(control) {
        return text.to_owned();
    }
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if control(c) {
            (0..c.len_utf8()).for_each(|_| out.push('?'))
        } else {
            out.push(c)
        }
        out
    })
}
