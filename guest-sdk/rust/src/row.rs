//! Typed rows, and the ports that they come in and go out by.
//!
//! Law: only declared columns cross, so a row type is also the list of columns that its operator pays for.

use crate::native::{ColumnRef, Field, OpError, Port};
use crate::types::{ColumnBuilder, Cursor};

/// A row: a struct with named fields that derives `Row`.
///
/// A struct that borrows from the batch has one lifetime, `'a`. `#[row(name = "...")]` on a field names its column.
/// `#[row(carry)]` on the struct makes the host append the columns to those of the input row that it comes from.
#[diagnostic::on_unimplemented(message = "`{Self}` is no row", note = "add #[derive(Row)] to the struct")]
pub trait Row<'a>: Sized {
    /// Whether the host adds all columns of the parent row.
    const CARRY: bool = false;
    type Reader: Copy;
    fn fields() -> Vec<Field>;
    fn row_reader(columns: &mut Cursor<'_, 'a>, rows: usize) -> Result<Self::Reader, OpError>;
    fn read_row(reader: &Self::Reader, row: usize) -> Self;
    fn write_row(&self, out: &mut [ColumnBuilder]);
    /// Appends what stands under a null struct.
    fn write_null_row(out: &mut [ColumnBuilder]);
}

/// The rows of all inputs (or all outputs) of an operator: one row type, or an enum that derives `Ports` with one
/// row type per variant. The first variant is port 0, the main output; ports are named after their variants.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a row nor a set of ports",
    note = "add #[derive(Row)] to a struct with named fields, or #[derive(Ports)] to an enum with one row per variant"
)]
pub trait Ports<'a>: Sized {
    type Reader: Copy;
    /// The ports in order. A single one has the name `single`.
    fn ports(single: &str) -> Vec<Port>;
    fn reader(port: u16, columns: &[ColumnRef<'a>], rows: usize) -> Result<Self::Reader, OpError>;
    fn read(reader: &Self::Reader, row: usize) -> Self;
    /// Index of the port that this row belongs to.
    fn port(&self) -> u16;
    fn write(&self, out: &mut [ColumnBuilder]);
}

impl<'a, R: Row<'a>> Ports<'a> for R {
    type Reader = R::Reader;

    fn ports(single: &str) -> Vec<Port> {
        vec![port_of::<R>(single)]
    }

    fn reader(port: u16, columns: &[ColumnRef<'a>], rows: usize) -> Result<Self::Reader, OpError> {
        if port != 0 {
            return Err(no_port(port));
        }
        row_reader::<R>(columns, rows)
    }

    #[inline(always)]
    fn read(reader: &Self::Reader, row: usize) -> Self {
        R::read_row(reader, row)
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        0
    }

    #[inline(always)]
    fn write(&self, out: &mut [ColumnBuilder]) {
        self.write_row(out);
    }
}

/// The port of one row type.
pub fn port_of<'a, R: Row<'a>>(name: &str) -> Port {
    Port { name: name.to_owned(), fields: R::fields(), carry: R::CARRY, broadcast: false }
}

/// A reader over exactly these columns.
pub fn row_reader<'a, R: Row<'a>>(columns: &[ColumnRef<'a>], rows: usize) -> Result<R::Reader, OpError> {
    let mut cursor = Cursor::new(columns);
    let reader = R::row_reader(&mut cursor, rows)?;
    cursor.end()?;
    Ok(reader)
}

/// The host asked for a port that was not described.
pub fn no_port(port: u16) -> OpError {
    crate::error::contract(format_args!("there is no port {port}"))
}

/// A row without columns: the key of operators that do not declare theirs.
impl<'a> Row<'a> for () {
    type Reader = ();
    fn fields() -> Vec<Field> {
        Vec::new()
    }
    fn row_reader(_: &mut Cursor<'_, 'a>, _: usize) -> Result<(), OpError> {
        Ok(())
    }
    fn read_row(_: &(), _: usize) {}
    fn write_row(&self, _: &mut [ColumnBuilder]) {}
    fn write_null_row(_: &mut [ColumnBuilder]) {}
}
