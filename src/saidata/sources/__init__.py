"""Sources: evidence of one package at a time, asked of the provider's own client when it is wanted.

A source answers with facts, or with the reason why it could not be asked, which is never taken for "there is none". It
knows nothing of the index, of documents or models. Open `provider` for what a source is and the list of them, `deb` for what
is read out of a Debian package.
"""
