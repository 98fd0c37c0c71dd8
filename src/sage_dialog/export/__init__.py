"""Export of policies to folders that plain libraries load, with a model card."""
