"""From a transmission electron microscope's session folders to particle tables that chemists trust."""

__version__ = "0.1.0"
