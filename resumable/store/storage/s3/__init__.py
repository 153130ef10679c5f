"""The storage on S3, through s3fs."""
