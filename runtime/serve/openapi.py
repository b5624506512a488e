"""placeholder"""


def document(engine):
    return {}
