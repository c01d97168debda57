"""What the service asks of MLflow, in calls that come to an end."""
