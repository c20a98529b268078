"""What each path does: inference, pages (health, models, metrics ...), Ollama's pages, stored responses."""
