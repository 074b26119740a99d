"""What the book and the command line need: profiles, results, claims, the shipped model, benches, figures."""
