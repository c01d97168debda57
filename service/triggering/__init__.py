"""Assessments that nobody asked for: webhooks of MLflow, and a poller for those that were lost."""
