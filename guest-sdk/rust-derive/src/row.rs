//! `#[derive(Row)]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, Ident, Result, Type};

use crate::attrs;

struct Column<'i> {
    field: &'i Ident,
    ty: &'i Type,
    name: String,
}

pub fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let columns = columns(input)?;
    let carry = attrs::carry(&input.attrs)?;
    let own = attrs::lifetime(input)?;
    let lt = own.clone().unwrap_or_else(attrs::any_lifetime);
    let ident = &input.ident;
    // Type parameters of the impls that do not name a batch.
    let params = own.as_ref().map(|lt| quote!(<#lt>));
    let row = own.as_ref().map_or_else(|| quote!(#ident), |lt| quote!(#ident<#lt>));
    let any = own.as_ref().map_or_else(|| quote!('static), |lt| quote!(#lt));

    let reader = reader(&columns, &lt);
    let row_impl = row_impl(&columns, &row, &lt, carry);
    let count = count(&columns);
    Ok(quote! {
        const _: () = {
            use ::tidemill_sdk as sdk;
            use ::tidemill_sdk::internal;
            #reader
            #row_impl

            impl #params sdk::Type for #row {
                const COLUMNS: usize = 1 + #count;
                fn describe(name: &str, nullable: bool, out: &mut ::std::vec::Vec<internal::Field>) {
                    let fields = <Self as sdk::Row<#any>>::fields();
                    let type_name = ::std::string::String::from("struct");
                    // Top-level fields: those that are not children of one before.
                    let (mut children, mut skip) = (0, 0);
                    for field in &fields {
                        if skip == 0 { children += 1; } else { skip -= 1; }
                        skip += field.children;
                    }
                    out.push(internal::Field { name: name.into(), type_name, nullable, children });
                    out.extend(fields);
                }
            }

            impl<#lt> sdk::Decode<#lt> for #row {
                type Reader = Reader<#lt>;
                fn reader(
                    columns: &mut internal::Cursor<'_, #lt>,
                    rows: usize,
                ) -> ::std::result::Result<Self::Reader, internal::OpError> {
                    columns.next()?;
                    <Self as sdk::Row<#lt>>::row_reader(columns, rows)
                }
                #[inline(always)]
                fn read(reader: &Self::Reader, row: usize) -> Self {
                    <Self as sdk::Row<#lt>>::read_row(reader, row)
                }
            }

            impl #params sdk::Encode for #row {
                #[inline(always)]
                fn write(&self, out: &mut [internal::ColumnBuilder]) {
                    <Self as sdk::Row<#any>>::write_row(self, &mut out[1..]);
                }
                fn write_null(out: &mut [internal::ColumnBuilder]) {
                    <Self as sdk::Row<#any>>::write_null_row(&mut out[1..]);
                }
            }
        };
    })
}

/// Columns of all fields together.
fn count(columns: &[Column<'_>]) -> TokenStream {
    let types = columns.iter().map(|c| c.ty);
    quote!((0usize #( + <#types as sdk::Type>::COLUMNS )*))
}

/// The struct of the fields' readers.
fn reader(columns: &[Column<'_>], lt: &syn::Lifetime) -> TokenStream {
    let names: Vec<Ident> = (0..columns.len()).map(|i| format_ident!("f{i}")).collect();
    let types = columns.iter().map(|c| {
        let ty = c.ty;
        quote_spanned!(ty.span()=> <#ty as sdk::Decode<#lt>>::Reader)
    });
    quote! {
        pub struct Reader<#lt> {
            #( #names: #types, )*
            batch: ::std::marker::PhantomData<&#lt ()>,
        }
        impl<#lt> ::std::clone::Clone for Reader<#lt> {
            #[inline(always)]
            fn clone(&self) -> Self { *self }
        }
        impl<#lt> ::std::marker::Copy for Reader<#lt> {}
    }
}

fn row_impl(columns: &[Column<'_>], row: &TokenStream, lt: &syn::Lifetime, carry: bool) -> TokenStream {
    let count = count(columns);
    let fields: Vec<&Ident> = columns.iter().map(|c| c.field).collect();
    let types: Vec<&Type> = columns.iter().map(|c| c.ty).collect();
    let names = columns.iter().map(|c| &c.name);
    let readers: Vec<Ident> = (0..columns.len()).map(|i| format_ident!("f{i}")).collect();
    let starts: Vec<TokenStream> = (0..columns.len()).map(|i| self::count(&columns[..i])).collect();
    let writes = columns.iter().zip(&starts).map(|(c, start)| {
        let (field, ty) = (c.field, c.ty);
        quote_spanned!(ty.span()=> <#ty as sdk::Encode>::write(&self.#field, &mut out[#start..]);)
    });
    quote! {
        #[allow(unused_variables)]
        impl<#lt> sdk::Row<#lt> for #row {
            const CARRY: bool = #carry;
            type Reader = Reader<#lt>;

            fn fields() -> ::std::vec::Vec<internal::Field> {
                let mut out = ::std::vec::Vec::new();
                #( <#types as sdk::Type>::describe(#names, <#types as sdk::Type>::NULLABLE, &mut out); )*
                out
            }

            fn row_reader(
                columns: &mut internal::Cursor<'_, #lt>,
                rows: usize,
            ) -> ::std::result::Result<Self::Reader, internal::OpError> {
                ::std::result::Result::Ok(Reader {
                    #( #readers: <#types as sdk::Decode<#lt>>::reader(columns, rows)?, )*
                    batch: ::std::marker::PhantomData,
                })
            }

            #[inline(always)]
            fn read_row(reader: &Self::Reader, row: usize) -> Self {
                Self { #( #fields: <#types as sdk::Decode<#lt>>::read(&reader.#readers, row), )* }
            }

            #[inline(always)]
            fn write_row(&self, out: &mut [internal::ColumnBuilder]) {
                let out = &mut out[..#count];
                #( #writes )*
            }

            fn write_null_row(out: &mut [internal::ColumnBuilder]) {
                #( <#types as sdk::Encode>::write_null(&mut out[#starts..]); )*
            }
        }
    }
}

fn columns(input: &DeriveInput) -> Result<Vec<Column<'_>>> {
    let fields = match &input.data {
        Data::Struct(data) => &data.fields,
        Data::Enum(data) => {
            let message = "a row is a struct; for several inputs or outputs derive Ports on the enum";
            return Err(Error::new_spanned(data.enum_token, message));
        }
        Data::Union(data) => return Err(Error::new_spanned(data.union_token, "a row is a struct")),
    };
    let mut columns: Vec<Column<'_>> = Vec::new();
    if let Fields::Unnamed(fields) = fields {
        return Err(Error::new_spanned(fields, "the fields of a row need names: they are its columns"));
    }
    for field in fields {
        let Some(ident) = &field.ident else { continue };
        let name = attrs::renamed(&field.attrs, "row")?.unwrap_or_else(|| attrs::plain(ident));
        if columns.iter().any(|c| c.name == name) {
            return Err(Error::new_spanned(ident, format!("there is a column `{name}` already")));
        }
        columns.push(Column { field: ident, ty: &field.ty, name });
    }
    Ok(columns)
}
