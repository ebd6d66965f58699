"""Generators: GAN, InfoGAN and StackGAN, the game that trains them, and GMMN, which has no adversary."""
