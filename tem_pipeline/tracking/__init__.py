"""Models in MLflow: the store, training runs, and the champion. Nothing else imports mlflow."""
