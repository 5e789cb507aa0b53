"""How is what a broker keeps copied, put back, looked over, counted and taken out?"""
