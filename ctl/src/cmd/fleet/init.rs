//! `imgctl fleet init`

use proto::control::Fleet;

use crate::context::Context;

/// Makes a fleet of one.
pub(super) fn run(context: &Context) -> super::super::Result {
    let exit = super::enter(context, Fleet::Init)?;
    context.output.line("imgctl fleet invite prints a token for the next host; imgctl fleet backup -o FILE keeps the key for a bad day");
    Ok(exit)
}
