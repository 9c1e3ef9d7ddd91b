//! `#[derive(Keyed)]`, `#[derive(Map)]`, `#[derive(Filter)]`: name, flags and handles of an operator.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Error, Field, Fields, Ident, Result, Type};

use crate::attrs::{self, StateAttrs};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Keyed,
    Map,
    Filter,
}

/// Types of the fields that are states.
const STATES: [&str; 5] = ["Value", "ListState", "MapState", "ReducingState", "AggregatingState"];

/// What a field of an operator is.
enum Role {
    State(StateAttrs),
    Metric,
    Plain,
}

struct Handle<'i> {
    field: &'i Ident,
    ty: &'i Type,
    name: String,
    role: Role,
}

pub fn expand(input: &DeriveInput, kind: Kind) -> Result<TokenStream> {
    if let Some(param) = input.generics.params.first() {
        return Err(Error::new_spanned(param, "an operator has no type or lifetime parameters: it owns what it holds"));
    }
    let handles = handles(input, kind)?;
    let operator = attrs::operator(&input.attrs)?;
    if let (Some(key), true) = (&operator.key, kind != Kind::Keyed) {
        return Err(Error::new_spanned(key, "only keyed operators have a key: derive Keyed"));
    }
    let ident = &input.ident;
    let name = operator.name.unwrap_or_else(|| attrs::snake_case(&attrs::plain(ident)));
    let doc = attrs::doc(&input.attrs);
    let (time, changes) = (operator.time, operator.changes);
    let key = operator.key.map_or_else(|| quote!(()), |key| quote!(#key));
    let (kind_name, trait_name, open, out) = match kind {
        Kind::Keyed => ("Keyed", "KeyedOperator", "open_keyed", "Out"),
        Kind::Map => ("Map", "MapOperator", "open_map", "Out"),
        Kind::Filter => ("Filter", "FilterOperator", "open_filter", "In"),
    };
    let [kind_name, trait_name, open, out] = [kind_name, trait_name, open, out].map(|n| format_ident!("{n}"));
    let create = create(&input.data, &handles);
    let states = states(&handles);
    let metrics = handles.iter().filter(|h| matches!(h.role, Role::Metric)).map(|h| {
        let (field, name) = (h.field, &h.name);
        quote!(self.#field.flush(#name);)
    });
    Ok(quote! {
        const _: () = {
            use ::tidemill_sdk as sdk;
            use ::tidemill_sdk::internal;

            impl sdk::Operator for #ident {
                const NAME: &'static str = #name;
                const DOC: &'static str = #doc;
                const KIND: internal::Kind = internal::Kind::#kind_name;
                const READS_TIME: bool = #time;
                const CHANGES: bool = #changes;
                type Input<'a> = <#ident as sdk::#trait_name>::In<'a>;
                type Output<'a> = <#ident as sdk::#trait_name>::#out<'a>;
                type Key<'a> = #key;

                fn create() -> Self {
                    #create
                }

                fn open_instance(
                    config: &internal::Config<'_>,
                ) -> ::std::result::Result<::std::boxed::Box<dyn internal::Instance>, internal::OpError> {
                    internal::#open::<Self>(config)
                }

                fn flush_metrics(&mut self) {
                    #( #metrics )*
                }

                #states
            }
        };
    })
}

fn create(data: &Data, handles: &[Handle<'_>]) -> TokenStream {
    if let Data::Struct(syn::DataStruct { fields: Fields::Unit, .. }) = data {
        return quote!(Self);
    }
    let mut index = 0..;
    let fields = handles.iter().map(|h| {
        let (field, ty, name) = (h.field, h.ty, &h.name);
        match h.role {
            Role::State(_) => {
                let index: u16 = index.next().unwrap_or(u16::MAX);
                quote!(#field: <#ty>::create(#name, #index))
            }
            _ => quote!(#field: <#ty as ::std::default::Default>::default()),
        }
    });
    quote!(Self { #( #fields ),* })
}

/// The methods about state; none if there is no state.
fn states(handles: &[Handle<'_>]) -> TokenStream {
    let states: Vec<(&Handle<'_>, &StateAttrs)> = handles
        .iter()
        .filter_map(|h| match &h.role {
            Role::State(attrs) => Some((h, attrs)),
            _ => None,
        })
        .collect();
    if states.is_empty() {
        return TokenStream::new();
    }
    let fields: Vec<&Ident> = states.iter().map(|(h, _)| h.field).collect();
    let types: Vec<&Type> = states.iter().map(|(h, _)| h.ty).collect();
    let names: Vec<&String> = states.iter().map(|(h, _)| &h.name).collect();
    let versions = states.iter().map(|(_, a)| a.version);
    let ttls = states.iter().map(|(_, a)| {
        let (ms, on_read) = (a.ttl_ms, a.ttl_on_read);
        quote!((#ms, #on_read))
    });
    let maps = states.iter().filter(|(h, _)| last_segment(h.ty).as_deref() == Some("MapState")).map(|(h, _)| h.field);
    // A state that belongs to no key has one value in each call, under the index 0.
    let scopes: Vec<String> =
        states.iter().map(|(_, a)| a.scope.as_ref().map_or_else(|| "key".to_owned(), Ident::to_string)).collect();
    let counts = states.iter().map(|(_, a)| if a.scope.is_some() { quote!(1) } else { quote!(keys) });
    let of_keys = states.iter().filter(|(_, a)| a.scope.is_none()).map(|(h, _)| h.field);
    let indices = 0..states.len() as u16;
    let migrations = states.iter().flat_map(|(h, a)| {
        let (ty, name) = (h.ty, &h.name);
        a.migrate.iter().map(move |(from, path)| quote!((#name, #from) => <#ty>::migrate(#name, #path, values),))
    });
    quote! {
        fn states() -> ::std::vec::Vec<internal::StateDescriptor> {
            ::std::vec![ #(
                internal::StateDescriptor { scope: #scopes, ..<#types>::describe(#names, #versions, #ttls) }
            ),* ]
        }

        #[allow(unused_variables)]
        fn load(
            &mut self,
            states: ::std::vec::Vec<internal::Column>,
            keys: usize,
        ) -> ::std::result::Result<(), internal::OpError> {
            let mut states = states.into_iter();
            #( self.#fields.load(internal::next_state(&mut states)?, #counts)?; )*
            match states.next() {
                ::std::option::Option::None => ::std::result::Result::Ok(()),
                ::std::option::Option::Some(_) => ::std::result::Result::Err(internal::contract("too many states")),
            }
        }

        #[inline(always)]
        #[allow(unused_variables)]
        fn begin(&mut self, key: usize) {
            #( self.#of_keys.begin(key); )*
        }

        #[inline(always)]
        fn fetch(&mut self) -> ::std::result::Result<(), internal::OpError> {
            #( self.#maps.fetch()?; )*
            ::std::result::Result::Ok(())
        }

        #[inline(always)]
        fn commit(&mut self) -> ::std::result::Result<(), internal::OpError> {
            #( self.#fields.commit()?; )*
            ::std::result::Result::Ok(())
        }

        fn rollback(&mut self) {
            #( self.#fields.rollback(); )*
        }

        fn updates(&mut self, out: &mut internal::Effects) {
            #( self.#fields.finish(#indices, out); )*
        }

        #[allow(unused_variables)]
        fn migrate(
            name: &str,
            from: u32,
            values: internal::Column,
        ) -> ::std::result::Result<internal::Column, internal::OpError> {
            match (name, from) {
                #( #migrations )*
                _ => ::std::result::Result::Err(internal::OpError::Fatal(::std::format!(
                    "state `{name}` has no migration from version {from}: add migrate({from} = function) to its \
                     #[state(...)]"
                ))),
            }
        }
    }
}

fn handles(input: &DeriveInput, kind: Kind) -> Result<Vec<Handle<'_>>> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "an operator is a struct"));
    };
    if let Fields::Unnamed(fields) = &data.fields {
        return Err(Error::new_spanned(fields, "the fields of an operator need names: states are called by them"));
    }
    let mut handles: Vec<Handle<'_>> = Vec::new();
    for field in &data.fields {
        let Some(ident) = &field.ident else { continue };
        let (name, role) = role(field, ident, kind)?;
        let is_state = |h: &Handle<'_>| matches!(h.role, Role::State(_)) && h.name == name;
        if matches!(role, Role::State(_)) && handles.iter().any(is_state) {
            return Err(Error::new_spanned(ident, format!("there is a state `{name}` already")));
        }
        handles.push(Handle { field: ident, ty: &field.ty, name, role });
    }
    Ok(handles)
}

fn role(field: &Field, ident: &Ident, kind: Kind) -> Result<(String, Role)> {
    let attrs = attrs::state(&field.attrs)?;
    let last = last_segment(&field.ty);
    let plain = attrs::plain(ident);
    match last.as_deref() {
        Some(last) if STATES.contains(&last) && kind != Kind::Keyed => {
            Err(Error::new_spanned(&field.ty, "state needs a key: derive Keyed instead"))
        }
        Some(last) if STATES.contains(&last) && last != "ListState" => match &attrs.scope {
            Some(scope) if scope != "broadcast" => {
                let message = format!("`{scope}` is for ListState: its values are dealt to the workers");
                Err(Error::new_spanned(scope, message))
            }
            _ => Ok((attrs.name.clone().unwrap_or(plain), Role::State(attrs))),
        },
        Some("ListState") => Ok((attrs.name.clone().unwrap_or(plain), Role::State(attrs))),
        _ if attrs.present => Err(Error::new_spanned(
            &field.ty,
            "#[state] is for fields of the types Value, ListState, MapState, ReducingState and AggregatingState",
        )),
        Some("Counter" | "Gauge") => Ok((plain, Role::Metric)),
        _ => Ok((plain, Role::Plain)),
    }
}

/// The name of a type without its path and parameters.
fn last_segment(ty: &Type) -> Option<String> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_scopes_are_reported_at_the_word() {
        for (field, expected) in [
            ("#[state(split)] s: Value<i64>", "`split` is for ListState: its values are dealt to the workers"),
            ("#[state(union)] s: MapState<i64, i64>", "`union` is for ListState: its values are dealt to the workers"),
            ("#[state(broadcast, union)] s: ListState<i64>", "the state is `broadcast` already"),
            ("#[state(split = true)] s: ListState<i64>", "this takes no value"),
            ("#[state(broadcast, ttl = \"1h\")] s: Value<i64>", "only states of keys have a time to live"),
            (
                "#[state(operator)] s: ListState<i64>",
                "#[state(...)] knows: name, broadcast, split, union, version, ttl, ttl_on_read, migrate",
            ),
        ] {
            let input: DeriveInput = syn::parse_str(&format!("struct Op {{ {field} }}")).expect("a struct");
            let error = expand(&input, Kind::Keyed).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(expected), "{field}");
        }
        let input =
            syn::parse_str("struct Op { #[state(split)] s: ListState<i64>, #[state(broadcast)] t: Value<i64> }");
        assert!(expand(&input.expect("a struct"), Kind::Keyed).is_ok());
    }
}
