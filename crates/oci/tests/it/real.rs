//! Debian's `docker-registry`, and archives made by skopeo and umoci.
