"""The surface on the wire: binds the catalogue to transports; knows no domain."""
