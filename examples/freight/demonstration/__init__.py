"""The demonstration: documents and urgent bookings through the whole mesh while processes are killed."""
