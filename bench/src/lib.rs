//! Throughput, latency and energy, recorded as data. Links no GStreamer, so that it runs on a bare GPU server.
