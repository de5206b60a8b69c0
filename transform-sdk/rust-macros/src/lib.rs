//! `#[tidemill_sdk::transform]`. Use it through `tidemill_sdk`.
//!
//! Written without a parser crate: all it has to find is the function's name, and a project's first build should be short.

#![forbid(unsafe_code)]

use proc_macro::{TokenStream, TokenTree};

/// Makes a function the module's transform.
///
/// The function is `fn(Record<'_>, &mut Output) -> Result<()>`, stays as it is, and can be called in tests. In a build for
/// `wasm32` the module's export is added beside it, so there can be one in a crate.
#[proc_macro_attribute]
pub fn transform(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if let Some(unexpected) = arguments.into_iter().next() {
        return error(
            &format!("#[transform] takes no arguments, found `{unexpected}`"),
            &item,
        );
    }
    let Some(name) = function_name(item.clone()) else {
        return error(
            "#[transform] belongs on a function: fn name(record: Record<'_>, output: &mut Output) -> Result<()>",
            &item,
        );
    };
    let mut out = item;
    out.extend(glue(&name));
    out
}

/// The identifier after the first `fn` outside any group.
fn function_name(item: TokenStream) -> Option<String> {
    let mut tokens = item.into_iter();
    while let Some(token) = tokens.next() {
        if matches!(&token, TokenTree::Ident(word) if word.to_string() == "fn") {
            return match tokens.next() {
                Some(TokenTree::Ident(name)) => Some(name.to_string()),
                _ => None,
            };
        }
    }
    None
}

/// A check of the signature everywhere, the export on `wasm32` only.
fn glue(name: &str) -> TokenStream {
    format!(
        "const _: ::tidemill_sdk::TransformFn = {name};
        #[cfg(target_arch = \"wasm32\")]
        const _: () = {{
            struct Module;
            impl ::tidemill_sdk::guest::Guest for Module {{
                fn process(
                    partition: u32,
                    batches: ::std::vec::Vec<::tidemill_sdk::guest::InputBatch>,
                ) -> ::std::result::Result<::tidemill_sdk::guest::Outcome, ::std::string::String> {{
                    ::tidemill_sdk::guest::process({name}, partition, &batches)
                }}
            }}
            ::tidemill_sdk::guest::export!(Module with_types_in ::tidemill_sdk::guest);
        }};"
    )
    .parse()
    .expect("the text above is Rust")
}

fn error(message: &str, item: &TokenStream) -> TokenStream {
    let mut out: TokenStream = format!("::std::compile_error!({message:?});")
        .parse()
        .expect("a macro call with one string is Rust");
    out.extend(item.clone());
    out
}
