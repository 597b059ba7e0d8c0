"""Where candidate structures come from."""
