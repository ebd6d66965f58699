"""The latent plane in the browser: a trained model of two latent dimensions as one HTML file that opens offline.

``explore`` writes the page. ``networks``, ``likelihoods``, ``priors`` and ``guides`` say in JSON what the parts of a
model are, ``store`` keeps their weights, ``tables`` the names and units of columns; ``page/`` is what runs in the
browser, put together by ``assembly``. A new part needs its line here and its formula there: ``page/likelihood.mjs`` for
one.
"""
