//! `#[derive(Ports)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Fields, Ident, Result, Type};

use crate::attrs;

pub fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let ports = ports(input)?;
    let own = attrs::lifetime(input)?;
    let lt = own.clone().unwrap_or_else(attrs::any_lifetime);
    let ident = &input.ident;
    let this = own.as_ref().map_or_else(|| quote!(#ident), |lt| quote!(#ident<#lt>));
    let variants: Vec<&Ident> = ports.iter().map(|p| p.variant).collect();
    let types: Vec<&Type> = ports.iter().map(|p| p.ty).collect();
    let (names, broadcast) = (ports.iter().map(|p| &p.name), ports.iter().map(|p| p.broadcast));
    let indices: Vec<u16> = (0..ports.len() as u16).collect();
    Ok(quote! {
        const _: () = {
            use ::tidemill_sdk as sdk;
            use ::tidemill_sdk::internal;

            pub enum Reader<#lt> {
                #( #variants(<#types as sdk::Row<#lt>>::Reader), )*
            }
            impl<#lt> ::std::clone::Clone for Reader<#lt> {
                #[inline(always)]
                fn clone(&self) -> Self { *self }
            }
            impl<#lt> ::std::marker::Copy for Reader<#lt> {}

            impl<#lt> sdk::Ports<#lt> for #this {
                type Reader = Reader<#lt>;

                fn ports(_single: &str) -> ::std::vec::Vec<internal::Port> {
                    ::std::vec![ #( internal::Port { broadcast: #broadcast, ..internal::port_of::<#types>(#names) } ),* ]
                }

                fn reader(
                    port: u16,
                    columns: &[internal::ColumnRef<#lt>],
                    rows: usize,
                ) -> ::std::result::Result<Self::Reader, internal::OpError> {
                    match port {
                        #( #indices => internal::row_reader::<#types>(columns, rows).map(Reader::#variants), )*
                        other => ::std::result::Result::Err(internal::no_port(other)),
                    }
                }

                #[inline(always)]
                fn read(reader: &Self::Reader, row: usize) -> Self {
                    match reader {
                        #( Reader::#variants(reader) => {
                            #ident::#variants(<#types as sdk::Row<#lt>>::read_row(reader, row))
                        } )*
                    }
                }

                #[inline(always)]
                fn port(&self) -> u16 {
                    match self { #( #ident::#variants(_) => #indices, )* }
                }

                #[inline(always)]
                fn write(&self, out: &mut [internal::ColumnBuilder]) {
                    match self { #( #ident::#variants(row) => <#types as sdk::Row<#lt>>::write_row(row, out), )* }
                }
            }
        };
    })
}

struct Port<'i> {
    variant: &'i Ident,
    ty: &'i Type,
    name: String,
    broadcast: bool,
}

fn ports(input: &DeriveInput) -> Result<Vec<Port<'_>>> {
    let Data::Enum(data) = &input.data else {
        let message = "ports are an enum with one row type per variant; a single row type needs no Ports";
        return Err(Error::new_spanned(&input.ident, message));
    };
    let mut ports: Vec<Port<'_>> = Vec::new();
    for variant in &data.variants {
        let ty = match &variant.fields {
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => &fields.unnamed[0].ty,
            _ => {
                let message = format!("a port has one row type: write {}(RowType)", variant.ident);
                return Err(Error::new_spanned(variant, message));
            }
        };
        let default = || attrs::snake_case(&attrs::plain(&variant.ident));
        let attrs::PortAttrs { name, broadcast } = attrs::port(&variant.attrs)?;
        let name = name.unwrap_or_else(default);
        if ports.iter().any(|p| p.name == name) {
            return Err(Error::new_spanned(&variant.ident, format!("there is a port `{name}` already")));
        }
        ports.push(Port { variant: &variant.ident, ty, name, broadcast });
    }
    if ports.is_empty() {
        return Err(Error::new_spanned(&input.ident, "there must be at least one port"));
    }
    Ok(ports)
}
