"""What only the book needs: profiles, results with their provenance, claims, the shipped model, figures."""
