"""Experiments: does a method do here what its authors report?"""
