//! The contract in `wit/`, as Rust. Generated; the only module that knows its shape besides `abi` and `imports`.
//!
//! Parameters borrow (`ColumnParam<'a>` holds slices of Arrow buffers, which are copied once, straight
//! into the guest), results own (`ColumnResult` holds the bytes that came back).

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "operator",
    ownership: Borrowing { duplicate_if_necessary: true },
    imports: { default: trappable },
    additional_derives: [],
});
