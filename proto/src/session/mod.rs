//! The machines that decide what may follow what in a transfer. No I/O, no clock.
