"""From structures to picks: features of any potential, selectors, reasons."""
