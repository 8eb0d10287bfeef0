"""From the libraries of boosted trees: XGBoost, LightGBM and CatBoost."""
