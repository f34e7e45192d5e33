"""fastq"""
