"""SGLang's wire."""
