"""From raw scans to plans and preprocessed cases, by nnU-Net's rules and with its numbers."""
