//! The verbs: one file an operation, each opening with its list of steps.
//!
//! | file | operation |
//! |---|---|
//! | [`create`] | `vm.create`: a row, a disk; with `start` the boot too, all or nothing |
//! | [`start`] | `vm.start`: from a frozen plan to a guest that answers |
//! | `go_on`, [`origin`] | a start's other way: the guest goes on from what was saved |
//! | [`suspend`] | `vm.suspend`: memory to the disk, the VMM ends; a start goes on from there |
//! | [`snapshot_create`] | `vm.snapshot`: memory, devices and disk of one moment |
//! | [`snapshot_restore`] | a start, or a restart, from a snapshot |
//! | [`fork`] | `vm.fork`: new VMs go on from where one is now |
//! | `give_up` | `vm.give_up`: the memory of a suspended VM is dropped, it is stopped |
//! | `saving` | the steps that save a machine |
//! | [`template_make`] | `template.make`: a fresh machine boots, is saved and ends |
//! | [`stop`] | `vm.stop`: ask the guest, wait, kill if need be |
//! | [`kill`] | `vm.kill`: a signal to the VMM, the guest is not asked |
//! | [`pause`], [`resume`] | `vm.pause`, `vm.resume`: its processors stand still, and run again with the right time |
//! | [`restart`] | `vm.restart`: stop and start as one |
//! | [`set`] | `vm.set`: what a VM has; its disk grows while it runs too |
//! | [`reset`] | `vm.reset`: the next boot drops the system layer |
//! | [`prepare`] | `vm.prepare`: a repository into a guest, or what is there brought up to date |
//! | [`delete`] | `vm.delete` |
//! | [`image_build`], [`image_pull`], [`image_commit`], [`image_register`] | `image.build`, `image.pull`, `image.commit`, `image.register`: of a recipe, of others, of a VM, of a file |
//! | [`image_make`] | how these four end |
//! | [`image_promote`] | `image.promote`: a file of its own for an image that is a link |
//! | [`image_delete`] | `image.delete` |
//! | [`kernel_import`], [`kernel_delete`] | `kernel.import`, `kernel.delete` |
//!
//! Around them: [`plan`] is what any of them is begun with, [`world`] what their steps work on, [`engine`] begins,
//! watches, cancels and recovers them, [`failure`] turns errors into causes people can read, `parts` looks for what a boot
//! is made of, `console` quotes a guest's console, `staging` holds what is made until it is whole, [`maker`] makes what VMs
//! boot from, [`puller`] brings images of others, [`catalogs`] what has a short name, [`courier`] carries workspaces, `policies` checks what the daemon is to do unasked, [`unasked`] begins it, and [`unexported`] keeps work from being
//! deleted.
//!
//! A plan fixes every id, path and number first; steps are idempotent functions of it.

pub mod catalogs;
mod console;
pub mod courier;
pub mod create;
pub mod delete;
pub mod engine;
pub mod failure;
pub mod fork;
mod free;
pub mod give_up;
mod go_on;
pub mod image_build;
pub mod image_commit;
pub mod image_delete;
pub mod image_make;
pub mod image_promote;
pub mod image_pull;
pub mod image_register;
pub mod kernel_delete;
pub mod kernel_import;
pub mod kill;
mod live;
pub mod maker;
pub mod origin;
pub(crate) mod parts;
pub mod pause;
pub mod plan;
mod policies;
pub mod prepare;
pub mod puller;
pub mod reset;
pub mod restart;
pub mod resume;
mod saving;
pub mod set;
pub mod snapshot_create;
pub mod snapshot_restore;
pub mod ssh_key;
mod staging;
pub mod start;
mod start_plan;
pub mod stop;
pub mod suspend;
pub mod template_make;
pub mod unasked;
pub mod unexported;
pub mod world;

pub use engine::Engine;
pub use plan::Plan;
pub use staging::maker_of;
pub use world::Host;
