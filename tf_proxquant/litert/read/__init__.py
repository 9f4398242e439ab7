"""A Keras model or a .tflite file as editable objects."""
