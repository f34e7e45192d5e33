"""Tools to test fastq itself, and brokers, backends and pools of third parties."""
