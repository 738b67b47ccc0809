//! An S3 endpoint over a directory.
