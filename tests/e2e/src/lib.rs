//! Scenarios of the disposable test host; the first one arrives with the Firecracker driver.
