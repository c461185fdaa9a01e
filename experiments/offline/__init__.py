"""Offline learners on data sets: training into run directories, data sets, their collection."""
