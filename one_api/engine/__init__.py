"""The local engine: processes of llama.cpp, their slots, and the model files that they load."""
