"""A trial: networks with drawn settings in every arm, compared draw by draw; its protocol is a TOML file."""
