"""Pyro programs as compiled tensor graphs.

The contract is that of ``jit``. What a program reads from Python is frozen when it is traced. A graph is keyed by the
shapes, strides, dtypes and devices of tensors, the training mode of modules, the parameters and their
``requires_grad``, and the arguments that are no tensors. Scalars (numbers, flags, strings, None) that stand directly
in attributes, closures and globals of the program's own code, or of Pyro handlers around it, are looked at before
every run, and nothing deeper.
Everything else is caught by running the graph and Pyro again under the same noise, at steps 2, 4, 8, ... of a graph,
then at every thousandth, and at the start of an epoch: where they differ the graph is dropped, a warning says since
which step it may have been wrong, and the program is traced anew. ``retrace()`` is for those who know that it changed.
"""
