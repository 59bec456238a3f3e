-- Whether the next boot drops the VM's system layer. Set by vm.reset, cleared in the transaction that records a running boot.
ALTER TABLE vms ADD COLUMN reset_pending INTEGER NOT NULL DEFAULT 0;
