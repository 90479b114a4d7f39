"""How this process logs: one line per record as text or JSON, and the file of the audit log. Knows neither calls nor stores."""
