"""Stage `convert`: metadata of one program in the words of another."""
