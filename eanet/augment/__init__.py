"""Random changes of training images, on the device and inside the jitted step."""
