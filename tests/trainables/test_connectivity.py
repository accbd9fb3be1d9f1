"""Linear mode connectivity: lines between networks whose barriers are known."""
