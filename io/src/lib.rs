//! Where frames come from and go to: GStreamer sources and sinks.
