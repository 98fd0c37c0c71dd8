"""The studio: one web application for people, with chat, explorer and arena, that only this machine can reach."""
