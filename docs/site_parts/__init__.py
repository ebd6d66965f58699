"""What the site needs beside Sphinx's own: equations as MathML, a reference of public names, buttons for notebooks."""
