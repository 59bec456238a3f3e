-- What is owed to VMs that are started without being asked, and which boot of the host each boot of theirs was in.

ALTER TABLE vms ADD COLUMN restart_json TEXT;
ALTER TABLE boots ADD COLUMN host_boot TEXT;
