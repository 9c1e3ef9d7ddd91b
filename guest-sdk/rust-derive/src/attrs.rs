//! What attributes say, and the names that follow from Rust's.

use proc_macro2::Span;
use syn::meta::ParseNestedMeta;
use syn::parse::ParseStream;
use syn::{Attribute, DeriveInput, Error, Ident, Lifetime, LitInt, LitStr, Path, Result, Token, Type};

/// Bytes in a name, as the contract has it.
const NAME_BYTES_MAX: usize = 64;

/// `#[row(...)]` on a struct.
pub fn carry(attrs: &[Attribute]) -> Result<bool> {
    let mut carry = false;
    parse(attrs, "row", &["carry"], |meta| {
        carry = true;
        flag(meta)
    })?;
    Ok(carry)
}

/// `#[port(...)]`.
#[derive(Default)]
pub struct PortAttrs {
    pub name: Option<String>,
    pub broadcast: bool,
}

pub fn port(attrs: &[Attribute]) -> Result<PortAttrs> {
    let mut found = PortAttrs::default();
    parse(attrs, "port", &["name", "broadcast"], |meta| {
        if meta.path.is_ident("name") {
            found.name = Some(name_value(meta)?);
            return Ok(());
        }
        found.broadcast = true;
        flag(meta)
    })?;
    Ok(found)
}

/// The name that `#[row(name = "...")]` gives.
pub fn renamed(attrs: &[Attribute], attribute: &str) -> Result<Option<String>> {
    let mut name = None;
    parse(attrs, attribute, &["name"], |meta| {
        name = Some(name_value(meta)?);
        Ok(())
    })?;
    Ok(name)
}

/// `#[operator(...)]`.
#[derive(Default)]
pub struct OperatorAttrs {
    pub name: Option<String>,
    pub key: Option<Type>,
    pub time: bool,
    pub changes: bool,
}

pub fn operator(attrs: &[Attribute]) -> Result<OperatorAttrs> {
    let mut found = OperatorAttrs::default();
    parse(attrs, "operator", &["name", "key", "time", "changes"], |meta| {
        if meta.path.is_ident("name") {
            found.name = Some(name_value(meta)?);
        } else if meta.path.is_ident("key") {
            found.key = Some(meta.value()?.parse()?);
        } else if meta.path.is_ident("time") {
            found.time = true;
        } else {
            found.changes = true;
        }
        Ok(())
    })?;
    Ok(found)
}

/// Whose a state can be, if it is not each key's own.
const SCOPES: [&str; 3] = ["broadcast", "split", "union"];

/// `#[state(...)]`.
pub struct StateAttrs {
    pub present: bool,
    pub name: Option<String>,
    /// `broadcast`, `split` or `union`, where it stands; else the state belongs to a key.
    pub scope: Option<Ident>,
    pub version: u32,
    pub ttl_ms: u64,
    pub ttl_on_read: bool,
    /// Old version, and the function that reads it.
    pub migrate: Vec<(u32, Path)>,
}

pub fn state(attrs: &[Attribute]) -> Result<StateAttrs> {
    let present = attrs.iter().any(|a| a.path().is_ident("state"));
    let (name, scope, ttl_ms, ttl_on_read, migrate) = Default::default();
    let mut found = StateAttrs { present, name, scope, version: 1, ttl_ms, ttl_on_read, migrate };
    let known = ["name", "broadcast", "split", "union", "version", "ttl", "ttl_on_read", "migrate"];
    parse(attrs, "state", &known, |meta| {
        let scope = meta.path.get_ident().filter(|ident| SCOPES.iter().any(|scope| ident == scope));
        if let Some(scope) = scope {
            if let Some(other) = found.scope.replace(scope.clone()) {
                return Err(meta.error(format!("the state is `{other}` already")));
            }
            flag(meta)?;
        } else if meta.path.is_ident("name") {
            found.name = Some(name_value(meta)?);
        } else if meta.path.is_ident("version") {
            found.version = meta.value()?.parse::<LitInt>()?.base10_parse()?;
        } else if meta.path.is_ident("ttl") {
            let text: LitStr = meta.value()?.parse()?;
            found.ttl_ms = duration_ms(&text.value())
                .ok_or_else(|| Error::new(text.span(), "a duration is written 500ms, 30s, 15m, 12h or 7d"))?;
        } else if meta.path.is_ident("ttl_on_read") {
            found.ttl_on_read = true;
            if found.ttl_ms == 0 {
                return Err(meta.error("ttl_on_read needs a time to live before it: ttl = \"12h\", ttl_on_read"));
            }
            flag(meta)?;
        } else {
            found.migrate = migrations(meta)?;
        }
        Ok(())
    })?;
    if let (Some(scope), true) = (&found.scope, found.ttl_ms > 0) {
        return Err(Error::new_spanned(scope, "only states of keys have a time to live"));
    }
    match found.migrate.iter().find(|(from, _)| *from >= found.version) {
        Some((from, path)) => {
            let message =
                format!("migrate({from} = ...) needs a version above {from}: #[state(version = {})]", from + 1);
            Err(Error::new_spanned(path, message))
        }
        None => Ok(found),
    }
}

fn migrations(meta: &ParseNestedMeta<'_>) -> Result<Vec<(u32, Path)>> {
    let content;
    syn::parenthesized!(content in meta.input);
    let pairs = content.parse_terminated(migration, Token![,])?;
    Ok(pairs.into_iter().collect())
}

fn migration(input: ParseStream<'_>) -> Result<(u32, Path)> {
    let from = input.parse::<LitInt>()?.base10_parse()?;
    input.parse::<Token![=]>()?;
    Ok((from, input.parse()?))
}

fn duration_ms(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let unit = match &text[end..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    text[..end].parse::<u64>().ok()?.checked_mul(unit)
}

/// Calls `take` for each entry of the attributes of this name; other entries are errors.
fn parse(
    attrs: &[Attribute],
    attribute: &str,
    known: &[&str],
    mut take: impl FnMut(&ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    for attr in attrs.iter().filter(|a| a.path().is_ident(attribute)) {
        if matches!(attr.meta, syn::Meta::Path(_)) {
            continue;
        }
        attr.parse_nested_meta(|meta| {
            if known.iter().any(|k| meta.path.is_ident(k)) {
                return take(&meta);
            }
            Err(meta.error(format!("#[{attribute}(...)] knows: {}", known.join(", "))))
        })?;
    }
    Ok(())
}

fn flag(meta: &ParseNestedMeta<'_>) -> Result<()> {
    if meta.input.is_empty() || meta.input.peek(Token![,]) { Ok(()) } else { Err(meta.error("this takes no value")) }
}

fn name_value(meta: &ParseNestedMeta<'_>) -> Result<String> {
    let literal: LitStr = meta.value()?.parse()?;
    let name = literal.value();
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(Error::new(literal.span(), format!("a name has 1 to {NAME_BYTES_MAX} bytes")));
    }
    Ok(name)
}

/// The one lifetime that a row may have, by which it borrows from the batch.
pub fn lifetime(input: &DeriveInput) -> Result<Option<Lifetime>> {
    let mut lifetime = None;
    for param in &input.generics.params {
        match param {
            syn::GenericParam::Lifetime(l) if lifetime.is_none() => lifetime = Some(l.lifetime.clone()),
            syn::GenericParam::Lifetime(l) => {
                return Err(Error::new_spanned(l, "a row borrows from one batch: one lifetime is enough"));
            }
            other => {
                return Err(Error::new_spanned(other, "a row's columns are fixed: type parameters are not possible"));
            }
        }
    }
    Ok(lifetime)
}

/// `'a` for types that do not borrow.
pub fn any_lifetime() -> Lifetime {
    Lifetime::new("'a", Span::call_site())
}

/// First line of the doc comment.
pub fn doc(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter(|a| a.path().is_ident("doc")).filter_map(|a| match &a.meta {
        syn::Meta::NameValue(value) => match &value.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    lines.skip_while(String::is_empty).take(1).collect()
}

/// `CountOrders` as `count_orders`.
pub fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    let mut before = '_';
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        let starts_word = c.is_uppercase()
            && before != '_'
            && (before.is_lowercase() || before.is_ascii_digit() || chars.peek().is_some_and(|n| n.is_lowercase()));
        if starts_word {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
        before = c;
    }
    snake
}

/// A Rust name as a column or port name: without the `r#` of raw identifiers.
pub fn plain(ident: &syn::Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_become_operator_names() {
        for (name, expected) in [
            ("CountOrders", "count_orders"),
            ("Filter", "filter"),
            ("HTTPLog", "http_log"),
            ("Top10Bids", "top10_bids"),
            ("a", "a"),
        ] {
            assert_eq!(snake_case(name), expected);
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration_ms("12h"), Some(43_200_000));
        assert_eq!(duration_ms("500ms"), Some(500));
        assert_eq!(duration_ms("12"), None);
        assert_eq!(duration_ms("h"), None);
    }
}
