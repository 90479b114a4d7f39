"""What a server tells Prometheus: which metrics there are, where their values come from, and the endpoint that shows them."""
