//! `banger-agent`: the one program banger puts into a guest, static and alone in its initramfs.
//!
//! | module | what |
//! |---|---|
//! | [`serve`] | answers the host: commands, trees, readiness, shutdown |
//!
//! The guest is hostile: nothing here trusts the image's content, and whatever the agent says is bounded and checked again
//! by the host. No code of ours resolves names or users through the C library, which would load modules of the image.

pub mod serve;
