"""rekeyd keeps the access keys of AWS backup users fresh. Start reading at `rekeyd.model`."""

__version__ = "0.1.0"
